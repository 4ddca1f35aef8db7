"""What everything is compared with: a FastAPI app that answers a constant.

`python -m benchmarks.load.bare`, on the port of the settings.
"""

import uvicorn
from fastapi import FastAPI

from jobs.settings import load_settings

app = FastAPI()


@app.get("/")
async def constant() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    settings = load_settings()
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False)
