# Short names for what CONTRIBUTING.md has in full. `just` lists them.

_default:
    @just --list --unsorted

# What the compiler and clippy say of the workspace
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Every test on both engines, or those of the workspace that a filter names: `just test policy::`
test *filter:
    {{ if filter == "" { "./test" } else { "cargo test --workspace -- " + filter } }}

# Write the golden files, to be reviewed
golden:
    UPDATE=1 cargo test -p openorch --test it -- golden errors
    UPDATE=1 cargo test -p oo --test it -- golden transcripts

# A benchmark in bench/: cli, daemon, gateway, identity, sdk or store
bench name *arguments:
    bench/{{ name }}/run {{ arguments }}

# A command that has a PostgreSQL of its own; alone, the daemon's tests on it
postgres *command="tools/test-on-postgres":
    tools/postgres {{ command }}

# All that must pass before a change is merged
ci:
    .ci/run
