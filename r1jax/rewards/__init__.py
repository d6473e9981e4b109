"""Text in, numbers out: graders, their composition, and the processes that hostile text is graded in."""
