"""`python -m services.shipping` runs shipping as a process of its own."""

from services.shipping.service import build
from services.shipping.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
