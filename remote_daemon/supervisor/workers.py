"""The processes of a supervisor: its workers, what they are forked from, and the groups that count their memory."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.sandbox.scratch import Scratch, sweep
from dynamo_genie.remote_daemon.sandbox.surroundings import nvidia_devices
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
from dynamo_genie.remote_daemon.supervisor.events import (
    Event,
    StartWorker,
    WorkerExited,
    WorkerId,
    WorkerSaid,
    WorkerStarted,
)
from dynamo_genie.remote_daemon.supervisor.indexing import ModelIndexes
from dynamo_genie.remote_daemon.supervisor.keys import fresh_pair
from dynamo_genie.remote_daemon.supervisor.memory_groups import MemoryGroup, MemoryGroups
from dynamo_genie.remote_daemon.supervisor.oom import OutOfMemoryKills
from dynamo_genie.remote_daemon.supervisor.standby import Standby, bury_strangers
from dynamo_genie.remote_daemon.supervisor.weight_folders import folder_of
from dynamo_genie.remote_daemon.supervisor.worker_process import WorkerProcess
from dynamo_genie.runtime.wire import messages as m

logger = logging.getLogger(__name__)

POLL_WITHOUT_PIDFD_S = 0.1


class Workers:
    """All workers of a supervisor. What happens to them is told to `happened`, as events of the state machine."""

    def __init__(self, config: SupervisorConfig, tenant_name: Callable[[str], str]) -> None:
        """Start none yet; `tenant_name` names a tenant for people, by its key."""
        self._config = config
        self._tenant_name = tenant_name
        self._processes: dict[WorkerId, WorkerProcess] = {}
        self._unstarted: list[StartWorker] = []
        self._oom_kills = OutOfMemoryKills()
        self._standby: Standby | None = None
        self._groups: MemoryGroups | None = None
        self._indexes: ModelIndexes | None = None

    def prepare(self) -> None:
        """Do what must be done once, before the first one starts."""
        sandbox, module = self._config.sandbox, self._config.worker_command[-1]
        sandbox.announce_gaps()
        sweep(*self._scratch_place(), sandbox.user)
        sandbox.prepare(module)
        self._groups = self._find_groups()
        self._indexes = ModelIndexes(self._config.model_dirs, sandbox)
        if self._config.standby:
            self._standby = Standby(module, hide=not sandbox.walls)

    def _find_groups(self) -> MemoryGroups | None:
        """Return where cgroups can be made; on a GPU the driver's memory is nothing that a limit would know."""
        cuda = any(device != "cpu" for device in self._config.devices) and bool(nvidia_devices())
        if not self._config.memory_limit or cuda or not sys.platform.startswith("linux"):
            return None
        try:
            return MemoryGroups.find({os.getpid(), os.getppid()})
        except OSError as error:
            logger.info("workers have no memory cgroups of their own: %s", error)
            return None

    # --- waiting for what happens ------------------------------------------------------------------------------

    def register(self, poller: zmq.Poller) -> None:
        """Have a poller wait for what happens to them."""
        if self._standby is not None and self._standby.fileno() >= 0:
            poller.register(self._standby.fileno(), zmq.POLLIN)
        for process in self._processes.values():
            if not process.pipe.closed:
                poller.register(process.pipe.fileno(), zmq.POLLIN | (zmq.POLLOUT if process.pipe.pending else 0))
            if process.exit_fd >= 0:
                poller.register(process.exit_fd, zmq.POLLIN)

    def wait_s(self, longest_s: float) -> float:
        """Return how long one may wait for what the poller waits for."""
        polled = any(process.exit_fd < 0 for process in self._processes.values())
        return POLL_WITHOUT_PIDFD_S if polled else longest_s

    def hear(self, happened: Callable[[Event], None], *, draining: Callable[[], bool]) -> None:
        """Tell what they say and which of them ended; start those that waited for the standby."""
        for worker, process in tuple(self._processes.items()):
            for event in self._hear(worker, process):
                happened(event)
            if process.pipe.closed and worker in self._processes and not draining():
                process.kill()  # nobody can talk to it any more; its end is noticed like any other
        if self._standby is not None:
            self._standby.look()
            if not self._standby.is_loading:
                waiting, self._unstarted = self._unstarted, []
                for start in waiting:
                    self.start(start, happened)

    def _hear(self, worker: WorkerId, process: WorkerProcess) -> Iterator[Event]:
        how = process.poll()  # before the pipe is read, so that last words are not lost
        try:
            for message in process.pipe.receive_available():
                yield WorkerSaid(worker, message)
        except ProtocolError as error:
            logger.error("worker %d is stopped: %s", process.pid, error)
            process.misbehaved = True
            process.kill()
        if how is not None:
            logger.log(logging.INFO if how == "exit code 0" else logging.WARNING, "worker %d: %s", process.pid, how)
            del self._processes[worker]
            how = self._oom_kills.explain(how)
            outside = self._oom_kills.from_outside(how) and not process.misbehaved
            exited = WorkerExited(worker, how, process.note.last, process.note.running, outside)
            self._close(process)
            yield exited

    def look(self) -> None:
        """Look at what changes without a word; call it about every second."""
        self._oom_kills.look()
        if self._groups is not None:
            self._groups.look()
        if self._indexes is not None:
            self._indexes.look()
        if self._standby is not None:
            indexing = self._indexes.pids if self._indexes is not None else set()
            bury_strangers({self._standby.pid, *indexing, *(process.pid for process in self._processes.values())})

    # --- doing -----------------------------------------------------------------------------------------------

    def tell(self, worker: WorkerId, message: m.SupervisorToWorker) -> None:
        """Send a message to one."""
        self._processes[worker].pipe.send(message)

    def kill(self, worker: WorkerId, why: str, happened: Callable[[Event], None]) -> None:
        """Kill one; its end is told as any other."""
        if worker in self._processes:
            logger.warning("worker %d is killed: %s", self._processes[worker].pid, why)
            self._processes[worker].kill()
            return
        self._unstarted = [start for start in self._unstarted if start.worker != worker]
        happened(WorkerExited(worker, "it was never started"))

    def start(self, start: StartWorker, happened: Callable[[Event], None]) -> None:
        """Start one; where the standby is loading, as soon as that is ready."""
        if self._standby is not None and self._standby.is_loading:
            self._unstarted.append(start)
            return
        tenant = self._tenant_name(start.tenant)
        pair = fresh_pair() if self._config.keys else None
        sandbox = self._config.sandbox
        scratch = Scratch(*self._scratch_place(), sandbox.user)
        folder = self._weight_folder(start.tenant)
        models = tuple(map(str, self._config.model_dirs))
        indexes = tuple(map(str, self._indexes.folders)) if self._indexes is not None else ()
        address = parse_endpoint(self._config.listen)
        config = WorkerConfig(
            tenant=tenant,
            device=self._config.devices[start.device],
            devices=len(self._config.devices),
            memory_limit=self._config.memory_limit,
            host_memory_limit=self._config.host_memory_limit,
            listen=f"ipc://{scratch.path}/" if isinstance(address, IpcAddress) else address.endpoint(0),
            ports=self._config.worker_ports,
            keys=pair,
            client_public_key=start.tenant,
            supervisor_pid=os.getpid(),
            quarantined=start.quarantined,
            session_share=self._config.session_share,
            weight_cache=folder,
            weight_cache_limit=self._config.weight_cache_limit,
            models=models,
            model_indexes=indexes,
        )
        shares = (folder,) if folder else ()
        restrictions = sandbox.restrictions(scratch.path, config.device, shares, models + indexes)
        group = self._new_group()
        try:
            process = WorkerProcess(self._config.worker_command, config, restrictions, scratch, self._standby, group)
        except OSError as error:  # no descriptor or no memory left: a reason to try again, not to end
            logger.error("a worker for tenant %s cannot be started: %s", tenant, error)
            self._give_back(group)
            happened(WorkerExited(start.worker, f"it could not be started: {error.strerror}"))
            return
        self._processes[start.worker] = process
        logger.info("worker %d started for tenant %s", process.pid, tenant)
        happened(WorkerStarted(start.worker, process.pid, pair.public if pair else ""))

    def _scratch_place(self) -> tuple[str, str]:
        """Return where workers' own directories are made, which hold their sockets if those are files, and a prefix."""
        address = parse_endpoint(self._config.listen)
        if isinstance(address, IpcAddress):
            path = Path(address.path)
            return str(path.parent), f"{path.name}.worker-"
        return tempfile.gettempdir(), "genie-worker-"

    def _weight_folder(self, public_key: str) -> str:
        """Return where a tenant's workers keep weights; empty where they do not."""
        if self._config.weight_cache is None:
            return ""
        try:
            return folder_of(self._config.weight_cache, public_key, self._config.sandbox.user)
        except OSError as error:
            logger.warning("a worker keeps no weights: %s: %s", error.filename, error.strerror)
            return ""

    def _new_group(self) -> MemoryGroup | None:
        if self._groups is None:
            return None
        try:
            return self._groups.make(self._config.memory_limit)
        except OSError as error:
            logger.warning("a worker gets no memory cgroup: %s", error)
            return None

    def _give_back(self, group: MemoryGroup | None) -> None:
        if self._groups is not None and group is not None:
            self._groups.give_back(group)

    def _close(self, process: WorkerProcess) -> None:
        process.close()
        self._give_back(process.group)

    def close(self) -> None:
        """End those that still run, and what they are forked from."""
        while self._processes:
            self._close(self._processes.popitem()[1])
        if self._standby is not None:
            self._standby.close()
        if self._indexes is not None:
            self._indexes.close()
