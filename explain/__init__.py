"""Attribution methods for captions, and the measures that judge them.

A map says how much each cell of the annotation grid had to do with one word. A measure that a map or a mask
leaves undefined (no positive value, an empty mask, a constant map where a correlation is asked) is NaN inside
arrays here, and nothing else is; whoever stores it writes null.
"""
