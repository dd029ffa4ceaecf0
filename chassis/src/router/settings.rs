//! The limits of built-in operations: the settings, and the limits of one operation.

use std::time::Duration;

use openorch_api::{Access, Operation, json::Limits, op};

use crate::{
    body_reader::{BodyLimits, Pace},
    budget::BudgetSettings,
    settings,
    settings::ByteSize,
};

settings! {
    /// The limits of built-in operations (decision "Limits"): `[api]`.
    pub struct ApiSettings in "api" {
        /// Maximum request body size of a built-in operation, as sent.
        max_body_bytes: ByteSize = "4MiB";
        /// Maximum request body size of a built-in operation, after decompression.
        max_decompressed_bytes: ByteSize = "16MiB";
        /// Maximum request body size of a public operation, as sent and after decompression.
        max_public_body_bytes: ByteSize = "1MiB";
        /// Maximum decompression ratio of a request body of more than 64 KiB.
        max_decompression_ratio: usize = "100";
        /// Maximum nesting depth of a request body; at most 100.
        max_body_depth: usize = "64";
        /// Maximum number of JSON values in a request body.
        max_body_values: usize = "100000";
        /// Maximum number of JSON values in the request body of a public operation.
        max_public_body_values: usize = "10000";
        /// Number of large request bodies decompressed and parsed concurrently, each on its own thread.
        body_concurrency: usize = "4";
        /// Idle timeout while receiving a request body.
        body_idle_timeout: Duration = "30s";
        /// Time limit for receiving a whole request body.
        body_timeout: Duration = "120s";
        /// Minimum average rate of a request body, in bytes per second.
        body_min_rate: usize = "500";
        /// Time before the minimum rate is enforced.
        body_min_rate_grace: Duration = "10s";
        /// Maximum memory held by requests in progress: bodies and responses together.
        max_request_memory: ByteSize = "256MiB";
        /// Maximum memory held by the requests of one client address (an IPv6 /64 counts as one) or account, loopback excepted.
        max_request_memory_per_address: ByteSize = "64MiB";
        /// Time that a request waits for request memory before it is refused.
        request_memory_wait: Duration = "2s";
        /// Rate limit on writing calls, per second and account; admins and built-in services are exempt.
        max_writes_per_account: u32 = "100";
        /// Burst size of the rate limit on writing calls.
        max_writes_burst: u32 = "2000";
        /// Maximum total size of the answers of the reading calls of a batch.
        max_batch_answer_bytes: ByteSize = "4MiB";
        /// Time limit for all calls of a batch.
        batch_timeout: Duration = "30s";
        /// Maximum number of stored answers to calls with `Idempotency-Key` per account, each kept 24 hours; at most 10000.
        max_stored_answers_per_account: u64 = "1000";
        /// Maximum number of stored answers of all accounts.
        max_stored_answers: u64 = "100000";
        /// Maximum number of entries of a list without pagination.
        max_unpaged_list: usize = "50000";
    }
}

/// Below the limit of serde_json, 128, by which stored documents are read.
const MAX_DEPTH: usize = 100;

impl ApiSettings {
    /// The limits on the request body of an operation.
    pub(super) fn body_limits(&self, row: &Operation) -> BodyLimits {
        let is_public = matches!(row.access, Access::Public);
        let (usual, usual_decompressed, usual_values) = match is_public {
            true => (*self.max_public_body_bytes, *self.max_public_body_bytes, self.max_public_body_values),
            false => (*self.max_body_bytes, *self.max_decompressed_bytes, self.max_body_values),
        };
        BodyLimits {
            bytes: row.max_body_bytes.unwrap_or(usual),
            decompressed_bytes: row
                .max_body_bytes
                .map_or(usual_decompressed, |limit| limit * op::MAX_DECOMPRESSION_RATIO),
            decompression_ratio: self.max_decompression_ratio,
            json: Limits { depth: self.max_body_depth.min(MAX_DEPTH), values: row.max_values.unwrap_or(usual_values) },
            pace: Pace {
                idle: self.body_idle_timeout,
                timeout: self.body_timeout,
                min_rate: self.body_min_rate,
                grace: self.body_min_rate_grace,
            },
        }
    }

    pub(super) fn memory(&self) -> BudgetSettings {
        BudgetSettings {
            total: *self.max_request_memory,
            per_address: *self.max_request_memory_per_address,
            wait: self.request_memory_wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use openorch_api::json;

    use super::*;

    /// The CLI and the SDK have the same limits as constants.
    #[test]
    fn the_defaults_are_those_that_clients_know() {
        let settings = ApiSettings::default();
        assert_eq!((*settings.max_body_bytes, settings.max_body_depth), (op::DEFAULT_MAX_BODY_BYTES, json::MAX_DEPTH));
        assert_eq!(*settings.max_decompressed_bytes, op::DEFAULT_MAX_BODY_BYTES * op::MAX_DECOMPRESSION_RATIO);
    }
}
