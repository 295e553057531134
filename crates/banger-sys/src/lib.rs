//! System calls behind safe types: spawn, links, entropy. Knows no banger word.
