//! Damage, torn ends, lost flushes: what was acknowledged is there or the loss is reported.
