//! Settings. Each section is a struct beside the code that it is for, made by [`settings!`]: a field's documentation is its
//! help, and its default is said there once. A setting is a flag, an environment variable and a key of the config file, in
//! this order of weight; what was given is a [`Given`], which knows nothing of sections.
//!
//! [`settings!`]: crate::settings!

mod value;

use std::collections::HashMap;

pub use self::value::{Address, ByteSize, Fraction, Interval, Secret, Value};

/// The settings of one part of the daemon: a table of the config file and a heading of `--help`.
#[derive(Debug)]
pub struct Section {
    /// Of the table and of the variables; empty for what concerns the whole daemon and has no table.
    pub name: &'static str,
    pub settings: &'static [Setting],
}

/// One setting of a section.
#[derive(Debug)]
pub struct Setting {
    /// The name of the field.
    pub name: &'static str,
    doc: &'static str,
    /// The text that counts where none is given, or a description of what does.
    pub default: &'static str,
    /// A variable whose name is fixed elsewhere.
    variable: Option<&'static str>,
    /// Whether it may be in a flag, where every user of the machine can read it.
    pub is_secret: bool,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// For [`settings!`](crate::settings!) alone.
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

    /// What it says, without a full stop.
    pub fn help(&self) -> &'static str {
        self.doc.trim().trim_end_matches('.')
    }

    /// Whether a text can be its value; else what is wrong with it.
    pub fn check(&self, text: &str) -> Result<(), String> {
        (self.check)(text)
    }
}

impl Section {
    /// The variable of one of its settings.
    pub fn variable(&self, setting: &Setting) -> String {
        match (setting.variable, self.name) {
            (Some(variable), _) => variable.to_owned(),
            (None, "") => format!("OPENORCH_{}", setting.name.to_ascii_uppercase()),
            (None, section) => {
                format!("OPENORCH_{}_{}", section.to_ascii_uppercase(), setting.name.to_ascii_uppercase())
            }
        }
    }

    /// The flag of one of its settings, without its dashes.
    pub fn flag(&self, setting: &Setting) -> String {
        self.variable(setting).trim_start_matches("OPENORCH_").to_ascii_lowercase().replace('_', "-")
    }
}

/// A section as a type. Made by [`settings!`](crate::settings!).
pub trait Settings: Sized + 'static {
    const SECTION: Section;

    /// The values that were given, and the defaults of the others.
    ///
    /// # Errors
    ///
    /// A sentence with the variable, where a text cannot be a value.
    fn read(given: &Given) -> Result<Self, String>;
}

/// The texts that were given, by the variables of their settings.
#[derive(Clone, Default)]
pub struct Given(HashMap<String, String>);

impl Given {
    /// Takes a text, if the setting has none yet: sources are asked in the order of their weight.
    pub fn add(&mut self, variable: String, text: String) {
        self.0.entry(variable).or_insert(text);
    }

    /// The text that was given.
    pub fn text(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }

    /// For [`settings!`](crate::settings!) alone.
    #[doc(hidden)]
    pub fn value<T: Value>(&self, section: &Section, name: &str) -> Result<T, String> {
        let setting = section.settings.iter().find(|setting| setting.name == name).ok_or("no such setting")?;
        let variable = section.variable(setting);
        let value = match self.text(&variable) {
            Some(text) => T::parse(text),
            None => T::default_of(setting.default),
        };
        value.map_err(|error| format!("{variable}: {error}"))
    }
}

/// Makes a struct with the settings of a section.
///
/// ```
/// openorch_chassis::settings! {
///     /// What the kettle runs with.
///     pub struct KettleSettings in "kettle" {
///         /// How hot the water becomes, in degrees Celsius.
///         max_temperature: u32 = "100";
///         /// Where the water comes from. The default is a description, since the type is an `Option`.
///         source: Option<String> = "the tap", as "OPENORCH_WATER";
///     }
/// }
/// assert_eq!(KettleSettings::default().max_temperature, 100);
/// ```
///
/// makes `OPENORCH_KETTLE_MAX_TEMPERATURE`, `--kettle-max-temperature` and `max-temperature` in the table `[kettle]`.
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

            fn read(given: &$crate::settings::Given) -> Result<Self, String> {
                Ok($name { $($field: given.value(&Self::SECTION, stringify!($field))?,)* })
            }
        }

        impl Default for $name {
            fn default() -> Self {
                // Only the program's own text is read, which a test of the daemon does for every section.
                match <Self as $crate::settings::Settings>::read(&$crate::settings::Given::default()) {
                    Ok(settings) => settings,
                    Err(error) => panic!("the default of a setting is no value of it: {error}"),
                }
            }
        }
    };
}
