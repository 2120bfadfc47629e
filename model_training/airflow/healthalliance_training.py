"""The nightly training run, for those who have Airflow: copy this file into the folder of DAGs.

The worker's machine needs the command `healthalliance` and its settings in the environment or in a `.env` of the folder
`HEALTHALLIANCE_DIR`. Exit code 13, another run is going on, and 11, too few stays, skip the run instead of failing it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id="healthalliance_training",
    description="Train the readmission model on the feature topics as they are now; the gate decides who scores.",
    schedule="@daily",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,  # a run reads what is there now; yesterday's cannot be made up for
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=6)},
    tags=["healthalliance"],
):
    BashOperator(
        task_id="train",
        bash_command='cd "${HEALTHALLIANCE_DIR:-.}" && ${HEALTHALLIANCE_COMMAND:-healthalliance} train --json',
        append_env=True,
        skip_on_exit_code=[11, 13],
    )
