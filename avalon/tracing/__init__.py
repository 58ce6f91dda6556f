"""Recording: from operations on values to work that waits, and to programs that do it.

`values` records calls, `execute` finds or builds the program for what was recorded, `history`
remembers how values were made and walks back over it, `modes` holds what a thread records under.
"""
