//! The wire between the command line and the daemon, and a client for it.
