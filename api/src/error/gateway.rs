//! What the gateway says by itself, before or instead of handing a request on.

crate::errors! {
    NO_SERVICE_NAMED 404 "gateway.no_service_named" "the path names no service"
        "write it like `/<slug>/…`";
    NO_SUCH_SERVICE 404 "gateway.no_such_service" "no service of this slug is registered"
        "start the service, or correct the slug; `oo instance ls` lists those there are";
    NO_INSTANCE_READY 503 "gateway.no_instance_ready" "no instance of the service is healthy"
        "try again in a moment; `oo instance ls` says how the instances answer their probes";
    CANNOT_CONNECT 502 "gateway.cannot_connect" "no connection to an instance of the service could be opened"
        "see that the instance runs and listens at the address it registered";
    NO_CONNECTION_LEFT 503 "gateway.no_connection_left" "the daemon cannot open another connection to instances"
        "try again in a moment; an operator can raise the limit of open files";
    NO_ANSWER 502 "gateway.no_answer" "the instance closed the connection without an answer"
        "look into the log of the service; what changes something may have been done";
    BAD_ANSWER 502 "gateway.bad_answer" "the instance answered with something that is not HTTP as asked"
        "look into the service";
    LOOP 508 "gateway.loop" "the request came back to this gateway too often"
        "register the instance's own address, not one that leads back here";
    INVALID_REQUEST 400 "gateway.invalid_request" "the request is not HTTP that can be sent on"
        "correct what the sentence names";
    CONNECT_NOT_ALLOWED 405 "gateway.connect_not_allowed" "the method CONNECT is not spoken here"
        "name a service by its path";
    TARGET_TOO_LONG 414 "gateway.target_too_long" "the path and the query are too long"
        "send what is long in the body";
    TOO_MANY_HEADERS 431 "gateway.too_many_headers" "the request has too many header fields"
        "send fewer";
    UNKNOWN_TRANSFER_CODING 501 "gateway.unknown_transfer_coding" "the body has a transfer coding other than `chunked` alone"
        "send it chunked, or with its length";
    SERVICE_WORKER 403 "gateway.service_worker" "a service worker at this path would answer for all services"
        "serve the script below the slug, as in `/<slug>/worker.js`";
    STRANGER 403 "gateway.stranger" "while the default password or key stands, only programs on this machine may call"
        "do what the sentence names: set a password of your own, and a key";
    ADDRESS_BUSY 429 "gateway.address_busy" "as many requests from your network are in progress as there may be"
        "try again when some have ended";
    BUSY 503 "gateway.busy" "as many requests are in progress as there may be"
        "try again in a moment";
}
