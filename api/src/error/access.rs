//! Refusals of callers, by whatever operation is called: the row says whom it lets in.

crate::errors! {
    NO_TOKEN 401 "access.no_token" "the operation needs a token and none was sent"
        "sign in, and send the token as `Authorization: Bearer …`";
    MALFORMED_TOKEN 400 "access.malformed_token" "the `Authorization` header holds a token in another scheme, or beside something else"
        "send one token as `Authorization: Bearer …`";
    INVALID_TOKEN 401 "access.invalid_token" "the token is none of this daemon's"
        "sign in here for one";
    SESSION_ENDED 401 "access.session_ended" "the session of the token has ended or was revoked"
        "sign in again";
    DELEGATION_ENDED 401 "access.delegation_ended" "the token that a service received for its caller has ended"
        "make the call again, from the caller on";
    ACCOUNT_GONE 401 "access.account_gone" "the account of the token was deleted"
        "sign in with another account";
    NOT_IN_APP 401 "access.not_in_app" "the account has no role in the app of the token any more"
        "have an admin give it one with PUT /user-svc/enrolls, and sign in again";
    LOST_MEANWHILE 401 "access.lost_meanwhile" "the session ended, or the account lost its role, while the call was in progress; nothing was changed"
        "sign in again";
    RIGHT_LOST_MEANWHILE 403 "access.right_lost_meanwhile" "the right to the call was taken from the account while the call was in progress; nothing was changed"
        "have an admin give it back";
    PERMISSION_MISSING 403 "access.permission_missing" "the account lacks the permission"
        "have an admin give it the permission that the sentence names";
    NOT_OWNER 403 "access.not_owner" "the thing belongs to another account"
        "call as its owner, or ask an admin";
    NOT_DELEGATED 403 "access.not_delegated" "the token was made for a service, to which the operation is not open"
        "have an admin open it with PUT /user-svc/delegation";
    OTHER_SERVICE 403 "access.other_service" "the token was made for one service and sent to another"
        "call with the token of the sign-in";
    TOO_MANY_WRITES 429 "access.too_many_writes" "the account makes more calls that write than it may"
        "wait as long as `Retry-After` says; an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT";
    STREAMS_FULL 503 "access.streams_full" "as many streams of events are open as there may be"
        "try again when some have ended; an operator can raise OPENORCH_EVENTS_MAX_STREAMS";
    TOO_MANY_STREAMS 429 "access.too_many_streams" "as many streams of events are open as the account may have"
        "end one of them, or follow with fewer programs; an operator can raise OPENORCH_EVENTS_MAX_STREAMS_PER_ACCOUNT";
}
