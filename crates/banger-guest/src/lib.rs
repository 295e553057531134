//! The protocol between host and guest agent, and the host's side of it.
