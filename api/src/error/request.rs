//! Refusals of what was sent, whatever operation was meant.

crate::errors! {
    NO_SUCH_OPERATION 404 "request.no_such_operation" "no operation has this path"
        "look the path up at /docs; another version of the daemon may have it";
    METHOD_NOT_ALLOWED 405 "request.method_not_allowed" "the path answers other methods"
        "use one that the `Allow` header names";
    INVALID_URL 400 "request.invalid_url" "the path or the query is not encoded as URLs are, or has too many parts"
        "percent-encode it as UTF-8";
    INVALID_INPUT 400 "request.invalid_input" "the input lacks a required field, or one has another type or form than the document says"
        "correct the field that the sentence names";
    UNUSABLE_VALUE 400 "request.unusable_value" "the input has the right form, and what it says cannot be used: it names what is not there, or its fields do not go together"
        "correct what the sentence names";
    INVALID_BODY 400 "request.invalid_body" "the body is not the JSON that the operation takes, is cut, or has an unknown encoding"
        "correct what the sentence names";
    BODY_TOO_LARGE 413 "request.body_too_large" "the body is too large"
        "send it in parts";
    TOO_MANY_VALUES 413 "request.too_many_values" "the body has too many JSON values"
        "send it in parts";
    DOCUMENT_TOO_LARGE 413 "request.document_too_large" "what is to be stored is larger than a document may be"
        "make it smaller";
    BODY_TOO_SLOW 408 "request.body_too_slow" "the body comes too slowly"
        "send it faster, without pauses, or in parts";
    LIST_TOO_LONG 400 "request.list_too_long" "there are more than one answer may list"
        "ask for less by a filter, or page by page";
}
