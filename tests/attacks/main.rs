//! Attacks and accidents, each as a test that is named by what holds in spite of it.

mod access;
mod controllers;
mod corpus;
mod deletion;
mod identities;
mod overload;
mod pods;
mod requests;
mod store;
