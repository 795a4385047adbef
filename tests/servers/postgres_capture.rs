use crate::postgres as _;
