"""What the view says to SQLite. Upserts follow https://www.sqlite.org/lang_upsert.html."""

# A call id that comes back after the task's lifetime begins a new task under the same id, from revision 0.
UPSERT = """
INSERT INTO tasks (task_id, technology, revision, state, body, result_ref, updated_at_ms, call_id, owner)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET technology = excluded.technology, revision = excluded.revision, state = excluded.state,
    body = excluded.body, result_ref = excluded.result_ref, updated_at_ms = excluded.updated_at_ms,
    call_id = excluded.call_id, owner = coalesce(excluded.owner, tasks.owner)
WHERE (excluded.revision > tasks.revision AND tasks.state NOT IN ('done', 'failed', 'rejected'))
    OR tasks.updated_at_ms <= excluded.updated_at_ms - ?
"""
ADD_PENDING = """
INSERT INTO tasks (task_id, technology, revision, state, body, updated_at_ms, owner, is_started)
VALUES (?, ?, ?, ?, ?, ?, ?, 1)
ON CONFLICT (task_id) DO UPDATE SET is_started = 1, owner = coalesce(tasks.owner, excluded.owner)
"""
STARTED_OPEN = """
SELECT owner, count(*) FROM tasks
WHERE is_started = 1 AND state IN ('pending', 'running') AND updated_at_ms > ? AND technology <> 'voice-activity-detection'
GROUP BY owner
"""  # voice activity detection is not limited, see Tasks
SELECT = """
SELECT technology, revision, state, body, result_ref, updated_at_ms, call_id, owner
FROM tasks WHERE task_id = ? AND updated_at_ms > ?
"""
SELECT_CALL = """
SELECT task_id, revision, state, updated_at_ms FROM tasks
WHERE call_id = ? AND revision >= 0 AND updated_at_ms > ? ORDER BY technology, task_id LIMIT ?
"""
SET_OFFSET = """
INSERT INTO offsets (topic, partition, next_offset) VALUES (?, ?, ?)
ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset
"""
OLD_RESULTS = "SELECT DISTINCT result_ref FROM tasks WHERE result_ref GLOB 'sha256-*' AND updated_at_ms > ?"
META = "SELECT value FROM meta WHERE key = ?"
SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
SWEEP = "DELETE FROM tasks WHERE rowid IN (SELECT rowid FROM tasks WHERE updated_at_ms <= ? LIMIT ?)"
