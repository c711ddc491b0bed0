"""Operations that change something, shared by the command line, the API and the console; and `doctor`, which checks."""
