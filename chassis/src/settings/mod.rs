//! Settings. Each section is a struct next to the code that uses it, declared by [`settings!`] with the defaults; the doc
//! comment of a field is its help text. A setting can be a flag, an environment variable or a key of the config file, in this
//! order of precedence. [`RawSettings`] has the texts from all sources, without knowledge of sections.
//!
//! [`settings!`]: crate::settings!

mod value;

use std::collections::HashMap;

pub use self::value::{Address, ByteSize, Fraction, Interval, Secret, Value};

/// The settings of one component: a table of the config file and a heading of `--help`.
#[derive(Debug)]
pub struct Section {
    /// The name of the table and of the variables; empty for daemon-wide settings, which have no table.
    pub name: &'static str,
    /// The settings, in the order of the declaration.
    pub settings: &'static [Setting],
}

/// One setting of a section.
#[derive(Debug)]
pub struct Setting {
    /// The name of the field.
    pub name: &'static str,
    doc: &'static str,
    /// The default as text, or a description of it.
    pub default: &'static str,
    /// The variable, where it does not follow from section and name.
    variable: Option<&'static str>,
    /// Secrets cannot be passed as flags, which every user of the machine can read.
    pub is_secret: bool,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// Used by [`settings!`](crate::settings!) only.
    #[doc(hidden)]
    pub const fn new<T: Value>(
        name: &'static str,
        doc: &'static str,
        default: &'static str,
        variable: Option<&'static str>,
    ) -> Setting {
        Setting { name, doc, default, variable, is_secret: T::IS_SECRET, check: |text| T::parse(text).map(drop) }
    }

    /// The key in the section's table.
    pub fn key(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The help text, without a full stop.
    pub fn help(&self) -> &'static str {
        self.doc.trim().trim_end_matches('.')
    }

    /// Validates a text as its value; fails with the reason.
    pub fn check(&self, text: &str) -> Result<(), String> {
        (self.check)(text)
    }
}

impl Section {
    /// The environment variable of a setting.
    pub fn variable(&self, setting: &Setting) -> String {
        match (setting.variable, self.name) {
            (Some(variable), _) => variable.to_owned(),
            (None, "") => format!("OPENORCH_{}", setting.name.to_ascii_uppercase()),
            (None, section) => {
                format!("OPENORCH_{}_{}", section.to_ascii_uppercase(), setting.name.to_ascii_uppercase())
            }
        }
    }

    /// The flag of a setting, without the leading dashes.
    pub fn flag(&self, setting: &Setting) -> String {
        self.variable(setting).trim_start_matches("OPENORCH_").to_ascii_lowercase().replace('_', "-")
    }
}

/// A section as a type. Implemented by [`settings!`](crate::settings!).
pub trait Settings: Sized + 'static {
    /// The name and the settings of the section.
    const SECTION: Section;

    /// Parses the settings of the section, with defaults for those that are not set.
    ///
    /// # Errors
    ///
    /// A message that names the variable, if a text is not a valid value.
    fn read(given: &RawSettings) -> Result<Self, String>;
}

/// The unparsed settings, by environment variable.
#[derive(Clone, Default)]
pub struct RawSettings(HashMap<String, String>);

impl RawSettings {
    /// Adds a setting unless it is already set: sources are read in their order of precedence.
    pub fn add(&mut self, variable: String, text: String) {
        self.0.entry(variable).or_insert(text);
    }

    /// The text of a setting, if it is set.
    pub fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }

    /// Used by [`settings!`](crate::settings!) only.
    #[doc(hidden)]
    pub fn value<T: Value>(&self, section: &Section, name: &str) -> Result<T, String> {
        let setting = section.settings.iter().find(|setting| setting.name == name).ok_or("no such setting")?;
        let variable = section.variable(setting);
        let value = match self.get(&variable) {
            Some(text) => T::parse(text),
            None => T::default_of(setting.default),
        };
        value.map_err(|error| format!("{variable}: {error}"))
    }
}

/// Declares a struct with the settings of a section.
///
/// ```
/// openorch_chassis::settings! {
///     /// The settings of the kettle.
///     pub struct KettleSettings in "kettle" {
///         /// Maximum temperature in degrees Celsius.
///         max_temperature: u32 = "100";
///         /// The source of the water. The default is a description, since the type is an `Option`.
///         source: Option<String> = "the tap", as "OPENORCH_WATER";
///     }
/// }
/// assert_eq!(KettleSettings::default().max_temperature, 100);
/// ```
///
/// declares `OPENORCH_KETTLE_MAX_TEMPERATURE`, `--kettle-max-temperature` and `max-temperature` in the table `[kettle]`.
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $visible:vis struct $name:ident in $section:literal {
            $($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $default:literal $(, as $variable:literal)?;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $visible struct $name {
            $($(#[doc = $doc])+ pub $field: $kind,)*
        }

        impl $crate::settings::Settings for $name {
            const SECTION: $crate::settings::Section = $crate::settings::Section {
                name: $section,
                settings: &[$($crate::settings::Setting::new::<$kind>(
                    stringify!($field),
                    concat!($($doc),+),
                    $default,
                    [$(Some($variable),)? None][0],
                )),*],
            };

            fn read(given: &$crate::settings::RawSettings) -> Result<Self, String> {
                Ok($name { $($field: given.value(&Self::SECTION, stringify!($field))?,)* })
            }
        }

        impl Default for $name {
            fn default() -> Self {
                // Parses only defaults, which a test of the daemon checks for every section.
                match <Self as $crate::settings::Settings>::read(&$crate::settings::RawSettings::default()) {
                    Ok(settings) => settings,
                    Err(error) => panic!("invalid default of a setting: {error}"),
                }
            }
        }
    };
}
