//! Errors that the gateway itself returns, before or instead of forwarding a request.

crate::errors! {
    NO_SERVICE_NAMED 404 "gateway.no_service_named" "the path names no service"
        "use a path like `/<slug>/…`";
    NO_SUCH_SERVICE 404 "gateway.no_such_service" "no service of this slug is registered"
        "start the service, or correct the slug; `oo instance ls` lists the registered instances";
    NO_INSTANCE_READY 503 "gateway.no_instance_ready" "no instance of the service is healthy"
        "try again in a moment; `oo instance ls` shows the health of each instance";
    CANNOT_CONNECT 502 "gateway.cannot_connect" "no connection to an instance of the service could be opened"
        "check that the instance runs and listens at its registered address";
    NO_CONNECTION_LEFT 503 "gateway.no_connection_left" "the daemon has exhausted its file descriptors or ports and cannot connect to an instance"
        "try again in a moment; an operator can raise the limit of open files";
    NO_ANSWER 502 "gateway.no_answer" "the instance closed the connection without a response"
        "check the log of the service; the request may have been executed";
    BAD_ANSWER 502 "gateway.bad_answer" "the response of the instance is not valid HTTP"
        "check the log of the service";
    LOOP 508 "gateway.loop" "the request passed through this gateway too many times"
        "register the instance's own address, not one that routes back to this gateway";
    INVALID_REQUEST 400 "gateway.invalid_request" "the request cannot be forwarded as HTTP"
        "correct what the message names";
    CONNECT_NOT_ALLOWED 405 "gateway.connect_not_allowed" "the method CONNECT is not supported"
        "address a service by its path";
    TARGET_TOO_LONG 414 "gateway.target_too_long" "the path and the query are too long"
        "send long values in the body";
    TOO_MANY_HEADERS 431 "gateway.too_many_headers" "the request has too many header fields"
        "send fewer";
    UNKNOWN_TRANSFER_CODING 501 "gateway.unknown_transfer_coding" "the body has a transfer coding other than `chunked` alone"
        "send it chunked, or with its length";
    SERVICE_WORKER 403 "gateway.service_worker" "a service worker at this path would intercept requests to all services"
        "serve the script below the slug, as in `/<slug>/worker.js`";
    STRANGER 403 "gateway.stranger" "while the default password or key is set, only loopback clients are served"
        "change the default password and key, as the message says";
    ADDRESS_BUSY 429 "gateway.address_busy" "your network has the maximum number of requests in progress"
        "try again when some have finished";
    BUSY 503 "gateway.busy" "the maximum number of requests is in progress"
        "try again in a moment";
}
