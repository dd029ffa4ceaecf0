# Completion of oo for bash: source <(oo completion bash)
_oo() {
    # Bash has split the line at `=` and `:` too; here it is split at spaces alone, as oo will see it.
    local line=${COMP_LINE:0:COMP_POINT} words current kept candidate
    read -ra words <<< "$line"
    case $line in *[[:space:]]) words+=('') ;; esac
    current=${words[${#words[@]} - 1]}
    # Readline replaces what stands after the last of these characters.
    kept=${current%"${current##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        case $candidate in *=) compopt -o nospace 2> /dev/null ;; esac
        case $candidate in /*/) compopt -o nospace 2> /dev/null ;; esac
        # Readline takes it over as it is: what an id holds is a word, never shell.
        printf -v candidate %q "${candidate#"$kept"}"
        COMPREPLY+=("$candidate")
    done < <("${words[0]}" complete -- "${words[@]:1}" 2> /dev/null)
}
complete -o bashdefault -o default -F _oo oo
