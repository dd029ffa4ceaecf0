//! Errors caused by the state of the daemon; any operation may return them.

crate::errors! {
    NOT_FOUND 404 "platform.not_found" "the resource to be changed no longer exists"
        "read again";
    CONFLICT 409 "platform.conflict" "the resource was changed concurrently, or the resource to be created exists already"
        "read again, then try again";
    STORE_TIMED_OUT 408 "platform.store_timed_out" "the store exceeded its time limit"
        "request less data at a time, or try again";
    INTERNAL 500 "platform.internal" "an internal error occurred in the daemon"
        "give the operator the request id; the log has the cause under this id";
    STOPPING 503 "platform.stopping" "the daemon is stopping"
        "try again in a moment";
    MEMORY_FULL 503 "platform.memory_full" "requests in progress use all of the memory reserved for them"
        "try again in a moment; an operator can raise OPENORCH_API_MAX_REQUEST_MEMORY";
    MEMORY_SHARE_FULL 503 "platform.memory_share_full" "requests in progress from your network or account use all of their share of memory"
        "try again when they have finished";
    WAITED_TOO_LONG 503 "platform.waited_too_long" "the call waited too long behind other long calls"
        "try again in a moment";
    CONTENDED 503 "platform.contended" "too many concurrent updates of the same data"
        "try again in a moment";
    STORE_UNAVAILABLE 503 "platform.store_unavailable" "the store does not respond"
        "try again in a moment; an operator finds the reason in the log";
    STORE_REPLACED 503 "platform.store_replaced" "a file of the store was removed or replaced while the daemon runs; the daemon is read-only"
        "have an operator make a backup and restart the daemon";
    STORAGE_FULL 507 "platform.storage_full" "the disk of the daemon is full; reads still work"
        "have an operator free space";
    CALLS_TOO_DEEP 508 "platform.calls_too_deep" "nested calls between operations exceed the maximum depth"
        "report to the operator that operations call one another in a cycle";
    CALL_TIMED_OUT 504 "platform.call_timed_out" "the time limit for the calls of the request expired; a write in progress continues"
        "make fewer calls in one request; read the current state before trying again";
    ANSWER_TOO_LARGE 413 "platform.answer_too_large" "the response of a nested call, for example of a batch, is too large"
        "request less data at a time; an operator can raise OPENORCH_API_MAX_BATCH_ANSWER_BYTES";
}
