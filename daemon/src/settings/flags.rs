//! Command-line flags of the settings. Secrets have none, because other users of the machine could read them.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use openorch_chassis::settings::RawSettings;

use super::all;

/// The values of the flags.
#[derive(Clone, Default)]
pub struct Flags(RawSettings);

impl From<Flags> for RawSettings {
    fn from(flags: Flags) -> RawSettings {
        flags.0
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        all().filter(|(_, setting)| !setting.is_secret).fold(command, |command, (section, setting)| {
            let variable = section.variable(setting);
            let heading = if section.name.is_empty() { "Settings".to_owned() } else { format!("[{}]", section.name) };
            let read = move |text: &str| setting.check(text).map(|()| text.to_owned());
            command.arg(
                Arg::new(variable.clone())
                    .long(section.flag(setting))
                    .value_name(setting.name.to_ascii_uppercase())
                    .help(format!("{} [{variable}] [default: {}]", setting.help(), setting.default))
                    .help_heading(heading)
                    .global(true)
                    .value_parser(read),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for (section, setting) in all().filter(|(_, setting)| !setting.is_secret) {
            let variable = section.variable(setting);
            if let Some(text) = matches.get_one::<String>(&variable) {
                self.0.add(variable, text.clone());
            }
        }
        Ok(())
    }
}

/// The help text about secrets, which have no flags.
pub fn secrets_help() -> String {
    let mut text = String::from(
        "Secrets (set by a variable, by a file that VARIABLE_FILE names, or by a key of the config file):\n",
    );
    for (section, setting) in all().filter(|(_, setting)| setting.is_secret) {
        text += &format!("  {}  {} [default: {}]\n", section.variable(setting), setting.help(), setting.default);
    }
    text
}
