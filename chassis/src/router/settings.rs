//! The limits of built-in operations, as settings, and what they are for one operation.

use std::time::Duration;

use openorch_api::{Access, Row, json::Limits, op};

use crate::{
    budget::BudgetSettings,
    request::{BodyLimits, Pace},
    settings,
    settings::ByteSize,
};

settings! {
    /// Limits of built-in operations (decision "Limits"): `[api]`.
    pub struct ApiSettings in "api" {
        /// Bytes of the body of a built-in operation's request as sent.
        max_body_bytes: ByteSize = "4MiB";
        /// Bytes of such a body when decompressed.
        max_decompressed_bytes: ByteSize = "16MiB";
        /// Bytes of the body of a public operation's request, as sent and decompressed.
        max_public_body_bytes: ByteSize = "1MiB";
        /// Ratio by which a compressed body may grow, beyond 64 KiB.
        max_decompression_ratio: usize = "100";
        /// Depth of arrays and objects in a body, at most 100.
        max_body_depth: usize = "64";
        /// JSON values in a body.
        max_body_values: usize = "100000";
        /// JSON values in the body of a public operation's request.
        max_public_body_values: usize = "10000";
        /// Large bodies decompressed and parsed side by side, each on a thread of its own.
        body_concurrency: usize = "4";
        /// The longest silence within a body.
        body_idle_timeout: Duration = "30s";
        /// Time for a whole body.
        body_timeout: Duration = "120s";
        /// Minimum average rate of a body, in bytes a second.
        body_min_rate: usize = "500";
        /// Time from which on that rate counts.
        body_min_rate_grace: Duration = "10s";
        /// Bytes that requests in progress may hold in memory, bodies and responses together.
        max_request_memory: ByteSize = "256MiB";
        /// The part of it that one client address may hold (an IPv6 /64 counts as one), loopback excepted.
        max_request_memory_per_address: ByteSize = "64MiB";
        /// Time that a request waits for such memory before it is refused.
        request_memory_wait: Duration = "2s";
        /// Calls that write, a second and account; admins and built-in services have no limit.
        max_writes_per_account: u32 = "100";
        /// Such calls that an account may make at once after a pause.
        max_writes_burst: u32 = "2000";
        /// Bytes of the answers to the calls of a batch together, of those that read.
        max_batch_answer_bytes: ByteSize = "4MiB";
        /// Time for all calls of a batch.
        batch_timeout: Duration = "30s";
        /// Stored answers of one account to calls with `Idempotency-Key`, each for 24 hours; at most 10000.
        max_stored_answers_per_account: u64 = "1000";
        /// Such answers of all accounts.
        max_stored_answers: u64 = "100000";
        /// Entries of a list that cannot be asked for in pages.
        max_unpaged_list: usize = "50000";
    }
}

/// The reader of stored documents goes 128 deep.
const MAX_DEPTH: usize = 100;

impl ApiSettings {
    /// The limits of the body of one operation.
    pub(super) fn body_limits(&self, row: &Row) -> BodyLimits {
        let is_public = matches!(row.access, Access::Public);
        let (usual, usual_decompressed, usual_values) = match is_public {
            true => (*self.max_public_body_bytes, *self.max_public_body_bytes, self.max_public_body_values),
            false => (*self.max_body_bytes, *self.max_decompressed_bytes, self.max_body_values),
        };
        BodyLimits {
            bytes: row.body_limit.unwrap_or(usual),
            decompressed_bytes: row.body_limit.map_or(usual_decompressed, |limit| limit * op::UNPACKED_FACTOR),
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

    /// The command line and the SDK have the same limits as constants.
    #[test]
    fn the_defaults_are_those_that_clients_know() {
        let settings = ApiSettings::default();
        assert_eq!((*settings.max_body_bytes, settings.max_body_depth), (op::BODY_LIMIT, json::MAX_DEPTH));
        assert_eq!(*settings.max_decompressed_bytes, op::BODY_LIMIT * op::UNPACKED_FACTOR);
    }
}
