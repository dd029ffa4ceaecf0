//! Authentication and authorization errors, common to all operations.

crate::errors! {
    NO_TOKEN 401 "access.no_token" "the operation needs a token and none was sent"
        "sign in, and send the token as `Authorization: Bearer …`";
    MALFORMED_TOKEN 400 "access.malformed_token" "the `Authorization` header contains another scheme than `Bearer`, or more than the token"
        "send one token as `Authorization: Bearer …`";
    INVALID_TOKEN 401 "access.invalid_token" "the token was not issued by this daemon"
        "sign in to this daemon";
    SESSION_ENDED 401 "access.session_ended" "the session of the token has ended or was revoked"
        "sign in again";
    DELEGATION_ENDED 401 "access.delegation_ended" "the delegated token of a service has expired, or its caller's session has ended"
        "repeat the original request with a valid session";
    ACCOUNT_GONE 401 "access.account_gone" "the account of the token was deleted"
        "sign in with another account";
    NOT_IN_APP 401 "access.not_in_app" "the account no longer has a role in the app of the token"
        "have an admin give it one with PUT /user-svc/enrolls, and sign in again";
    LOST_MEANWHILE 401 "access.lost_meanwhile" "the session ended, or the account lost its role, while the call was in progress; nothing was changed"
        "sign in again";
    RIGHT_LOST_MEANWHILE 403 "access.right_lost_meanwhile" "the account lost the required permission while the call was in progress; nothing was changed"
        "have an admin restore the permission";
    PERMISSION_MISSING 403 "access.permission_missing" "the account lacks the permission"
        "have an admin grant the permission that the message names";
    NOT_OWNER 403 "access.not_owner" "the resource belongs to another account"
        "call as its owner, or ask an admin";
    NOT_DELEGATED 403 "access.not_delegated" "the token is delegated to a service that may not call this operation"
        "have an admin allow it with PUT /user-svc/delegation";
    OTHER_SERVICE 403 "access.other_service" "the token is delegated to another service"
        "use the token of a sign-in";
    TOO_MANY_WRITES 429 "access.too_many_writes" "the account exceeds its rate limit for write calls"
        "wait as long as `Retry-After` says; an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT";
    TOO_MANY_WAITING 429 "access.too_many_waiting" "the maximum number of long calls of the account or of its network is already waiting"
        "wait as long as `Retry-After` says, and make fewer of these calls at once";
    STREAMS_FULL 503 "access.streams_full" "the maximum number of event streams is open"
        "try again later; an operator can raise OPENORCH_EVENTS_MAX_STREAMS";
    TOO_MANY_STREAMS 429 "access.too_many_streams" "the account has the maximum number of event streams open"
        "close one of them; an operator can raise OPENORCH_EVENTS_MAX_STREAMS_PER_ACCOUNT";
}
