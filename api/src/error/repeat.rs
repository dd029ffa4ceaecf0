//! Refusals of the header `Idempotency-Key`, of operations whose repeats are known by it.

crate::errors! {
    INVALID_KEY 400 "repeat.invalid_key" "the header `Idempotency-Key` is not 1 to 255 printable ASCII characters, or is there twice"
        "send one random value, such as a UUID";
    IN_FLIGHT 409 "repeat.in_flight" "a call with the same `Idempotency-Key` is in progress"
        "send it again in a moment, for the answer of that call";
    OTHER_REQUEST 422 "repeat.other_request" "the `Idempotency-Key` was used for a call with another input, or in another app"
        "send a new key with a new call";
    TOO_MANY_KEYS 429 "repeat.too_many_keys" "as many answers are stored for the account as may be, each for 24 hours"
        "try again later, or leave `Idempotency-Key` out; an operator can raise OPENORCH_API_MAX_STORED_ANSWERS_PER_ACCOUNT";
    ANSWERS_FULL 503 "repeat.answers_full" "as many answers are stored for all accounts as may be"
        "try again later, or leave `Idempotency-Key` out; an operator can raise OPENORCH_API_MAX_STORED_ANSWERS";
    ANSWER_TOO_LARGE 413 "repeat.answer_too_large" "the answer is too large to be stored; nothing was done"
        "leave `Idempotency-Key` out, or make the input smaller";
}
