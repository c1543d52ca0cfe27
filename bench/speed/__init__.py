"""What many machines give beside one: every figure of `docs/performance.md`'s section Speed, in one run."""
