//! Errors about the request itself, common to all operations.

crate::errors! {
    NO_SUCH_OPERATION 404 "request.no_such_operation" "no operation has this path"
        "look the path up at /docs; another version of the daemon may have it";
    METHOD_NOT_ALLOWED 405 "request.method_not_allowed" "the path does not support this method"
        "use one that the `Allow` header names";
    INVALID_URL 400 "request.invalid_url" "the path or the query is not valid URL encoding, or has too many parts"
        "percent-encode it as UTF-8";
    INVALID_INPUT 400 "request.invalid_input" "a required field is missing, or a field has another type or format than the document says"
        "correct the field that the message names";
    UNUSABLE_VALUE 400 "request.unusable_value" "the input is well formed but cannot be used: it refers to something that does not exist, or its fields contradict each other"
        "correct what the message names";
    INVALID_BODY 400 "request.invalid_body" "the body is not the JSON that the operation expects, is incomplete, or has an unknown encoding"
        "correct what the message names";
    BODY_TOO_LARGE 413 "request.body_too_large" "the body is too large"
        "send it in parts";
    TOO_MANY_VALUES 413 "request.too_many_values" "the body has too many JSON values"
        "send it in parts";
    DOCUMENT_TOO_LARGE 413 "request.document_too_large" "the document to be stored exceeds the maximum size"
        "make it smaller";
    BODY_TOO_SLOW 408 "request.body_too_slow" "the body arrives too slowly"
        "send it faster, without pauses, or in parts";
    LIST_TOO_LONG 400 "request.list_too_long" "the list has more entries than one response may contain"
        "use a filter, or request it page by page";
}
