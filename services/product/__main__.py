"""`python -m services.product` runs product as a process of its own."""

from services.product.service import build
from services.product.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
