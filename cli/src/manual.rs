//! `oo man`: the manual, made of the command tree.

use std::{io, path::Path};

use clap_mangen::Man;

use crate::{args, failure::Failure};

/// The page of `oo`, or of the command that the words name.
pub fn page(words: &[String]) -> Result<String, Failure> {
    let mut tree = args::command();
    tree.build();
    let mut command = &tree;
    for word in words {
        let unknown = || Failure::Usage(format!("there is no command `{}`; `oo --help` lists them", words.join(" ")));
        command = command.find_subcommand(word).ok_or_else(unknown)?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// The pages of all commands, `oo.1`, `oo-instance.1` and so on, into a folder.
pub fn write(folder: &Path) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::Other(format!("cannot write the manual into `{}`: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(args::command(), folder).map_err(failed)
}
