//! Pure decisions: ids, boot machine, session machine, steps and plans.
