# Completion of oo for bash: source <(oo completion bash)
_oo() {
    # Bash also splits the line at `=` and `:`; split it at spaces only, as `oo` receives it.
    local line=${COMP_LINE:0:COMP_POINT} words current kept candidate
    read -ra words <<< "$line"
    case $line in *[[:space:]]) words+=('') ;; esac
    current=${words[${#words[@]} - 1]}
    # Readline replaces only the text after the last of these characters.
    kept=${current%"${current##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        case $candidate in *=) compopt -o nospace 2> /dev/null ;; esac
        case $candidate in /*/) compopt -o nospace 2> /dev/null ;; esac
        # Quoted, because readline inserts it verbatim: an id must stay a word and never become shell syntax.
        printf -v candidate %q "${candidate#"$kept"}"
        COMPREPLY+=("$candidate")
    done < <("${words[0]}" complete -- "${words[@]:1}" 2> /dev/null)
}
complete -o bashdefault -o default -F _oo oo
