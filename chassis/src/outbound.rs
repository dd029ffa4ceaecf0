//! The one way out to addresses that users give: which addresses are allowed, how they are dialled.
//! (Contract decisions 15 and 17.)

/// The address of an instance in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstanceUrl {
    text: String,
}
