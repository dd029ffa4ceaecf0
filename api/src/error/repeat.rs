//! Errors about the header `Idempotency-Key`.

crate::errors! {
    INVALID_KEY 400 "repeat.invalid_key" "the header `Idempotency-Key` is not 1 to 255 printable ASCII characters, or is sent twice"
        "send one random value, such as a UUID";
    IN_FLIGHT 409 "repeat.in_flight" "a call with the same `Idempotency-Key` is in progress"
        "send it again in a moment to receive the response of that call";
    OTHER_REQUEST 422 "repeat.other_request" "the `Idempotency-Key` was used for a call with another input, or in another app"
        "send a new key with a new call";
    TOO_MANY_KEYS 429 "repeat.too_many_keys" "the account has the maximum number of stored responses, each kept for 24 hours"
        "try again later, or leave `Idempotency-Key` out; an operator can raise OPENORCH_API_MAX_STORED_ANSWERS_PER_ACCOUNT";
    ANSWERS_FULL 503 "repeat.answers_full" "the maximum number of responses is stored for all accounts"
        "try again later, or leave `Idempotency-Key` out; an operator can raise OPENORCH_API_MAX_STORED_ANSWERS";
    ANSWER_TOO_LARGE 413 "repeat.answer_too_large" "the response is too large to be stored; nothing was changed"
        "leave `Idempotency-Key` out, or make the input smaller";
}
