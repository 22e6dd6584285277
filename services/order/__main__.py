"""`python -m services.order` runs order as a process of its own."""

from services.order.service import build
from services.order.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
