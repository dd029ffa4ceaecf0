//! `oo man`: renders manual pages from the command tree.

use std::{fs, io, path::Path};

use clap::Command;
use clap_mangen::Man;

use crate::{args, error::CliError};

/// The page of `oo`, or of the command that the words name.
pub fn page(words: &[String]) -> Result<String, CliError> {
    let mut tree = args::command();
    tree.build();
    let mut command = &tree;
    for word in words {
        let unknown = || CliError::Usage(format!("no command `{}`; `oo --help` lists them", words.join(" ")));
        command = command.find_subcommand(word).ok_or_else(unknown)?;
    }
    Ok(String::from_utf8_lossy(&render(command)?).into_owned())
}

/// Writes the pages of all commands, `oo.1`, `oo-instance.1` and so on, into a directory.
pub fn write(directory: &Path) -> Result<(), CliError> {
    let failed =
        |error: io::Error| CliError::Other(format!("cannot write the manual into `{}`: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let mut tree = args::command();
    tree.build();
    let mut commands = vec![&tree];
    while let Some(command) = commands.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        fs::write(directory.join(format!("{name}.1")), render(command).map_err(failed)?).map_err(failed)?;
        let pages = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
        commands.extend(command.get_subcommands().filter(pages));
    }
    Ok(())
}

fn render(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).source(concat!("oo ", env!("CARGO_PKG_VERSION"))).render(&mut page)?;
    Ok(page)
}
