//! Refusals that come of the state of the daemon: any operation may answer them.

crate::errors! {
    NOT_FOUND 404 "platform.not_found" "what was to be changed is not there any more"
        "read again";
    CONFLICT 409 "platform.conflict" "what was to be changed was changed meanwhile, or what was to be made exists"
        "read again, then try again";
    STORE_TIMED_OUT 408 "platform.store_timed_out" "the store took longer than it may"
        "ask for less at once, or try again";
    INTERNAL 500 "platform.internal" "something went wrong in the daemon"
        "tell the operator the request's id, under which the log has the reason";
    STOPPING 503 "platform.stopping" "the daemon is stopping"
        "try again in a moment";
    MEMORY_FULL 503 "platform.memory_full" "requests in progress hold all the memory they may"
        "try again in a moment; an operator can raise OPENORCH_API_MAX_REQUEST_MEMORY";
    MEMORY_SHARE_FULL 503 "platform.memory_share_full" "requests in progress from your network hold all the memory they may"
        "try again when they have ended";
    CONTENDED 503 "platform.contended" "others changed the same thing all the time"
        "try again in a moment";
    STORE_UNAVAILABLE 503 "platform.store_unavailable" "the store does not answer"
        "try again in a moment; an operator finds the reason in the log";
    STORE_REPLACED 503 "platform.store_replaced" "a file of the store was removed or replaced while the daemon runs; it reads and no longer writes"
        "have an operator make a backup and restart the daemon";
    STORAGE_FULL 507 "platform.storage_full" "the disk of the daemon is full; reading goes on"
        "have an operator free space";
    CALLS_TOO_DEEP 508 "platform.calls_too_deep" "operations call one another deeper than they may"
        "tell the operator: operations call one another in a circle";
    CALL_TIMED_OUT 504 "platform.call_timed_out" "the time for the calls of the request ended; a call in progress that changes something goes on"
        "ask for less at once; read what was changed before trying again";
    ANSWER_TOO_LARGE 413 "platform.answer_too_large" "an answer is larger than an operation that calls others in process, as a batch does, may take"
        "ask for less at once; an operator can raise OPENORCH_API_MAX_BATCH_ANSWER_BYTES";
}
