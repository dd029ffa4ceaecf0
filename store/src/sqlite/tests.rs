//! Facts that need the inside of the engine.
