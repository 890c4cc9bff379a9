//! Bodies, patches and objects that are made to hurt: each is refused or bounded, and the server goes on.
