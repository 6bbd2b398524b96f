"""doctor: every dependency looked at, in order, with what is wrong and the fix."""
