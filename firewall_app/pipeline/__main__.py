from .pages import page

print(page(), end="")
