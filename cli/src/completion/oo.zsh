#compdef oo
# Completion of oo for zsh: source <(oo completion zsh), after compinit
_oo() {
    local line
    local -a values shown open open_shown
    for line in ${(f)"$(${words[1]} complete -- "${(@)words[2,CURRENT]}" 2> /dev/null)"}; do
        local value=${line%%$'\t'*} about=${line#*$'\t'}
        # A candidate that ends in `=` or in a slash is continued without a space.
        if [[ $value == *= || $value == /*/ ]]; then
            open+=("$value") open_shown+=("$value${about:+  -- $about}")
        else
            values+=("$value") shown+=("$value${about:+  -- $about}")
        fi
    done
    if (( ${#values} + ${#open} == 0 )); then
        _files
        return
    fi
    (( ${#values} )) && compadd -l -d shown -a values
    (( ${#open} )) && compadd -S '' -l -d open_shown -a open
}
compdef _oo oo
