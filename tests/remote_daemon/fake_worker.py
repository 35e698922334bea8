"""A worker without torch: it speaks the supervisor's pipe as the real one does and answers `Attach`.

Run as a module, with the behaviour named in GENIE_TEST_WORKER: "" serves; "fails" reports WorkerFailed; "crashes" dies
while starting; "waits:PATH" gets ready once PATH exists; "mute" serves but never answers a status request.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import zmq

from dynamo_genie.remote_daemon.channel.auth import Authenticator
from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.channel.pipe import WorkerPipe, open_worker_pipe
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES


def bind(context: zmq.Context, config: WorkerConfig, name: str) -> tuple[zmq.Socket, str]:
    endpoint, ports = config.bind_arguments(name)
    return bind_router(context, endpoint, ports=ports, max_frame_nbytes=MAX_CONTROL_NBYTES, curve=config.keys)


def serve(pipe: WorkerPipe, config: WorkerConfig, behaviour: str) -> None:
    context = zmq.Context()
    if config.keys is not None:
        Authenticator(context, lambda: (config.client_public_key,))
    control, control_endpoint = bind(context, config, "c")
    _, bulk_endpoint = bind(context, config, "b")
    device = m.DeviceInfo("cpu", f"fake device {config.device}", config.memory_limit, "none")
    pipe.send(m.WorkerReady(control_endpoint, bulk_endpoint, device))
    admitted: dict[bytes, m.AdmitSession] = {}
    poller = zmq.Poller()
    poller.register(control, zmq.POLLIN)
    poller.register(pipe.fileno(), zmq.POLLIN)
    while not pipe.closed:
        poller.poll()
        for message in pipe.receive_available():
            match message:
                case m.AdmitSession():
                    admitted[message.session] = message
                case m.DropSession(session):
                    admitted.pop(session, None)
                case m.WorkerStatusRequest(request_id) if behaviour != "mute":
                    pipe.send(m.WorkerStatusReport(request_id, status(config, admitted)))
                case m.WorkerPing():
                    pipe.send(m.WorkerPong(0.0, ""))
                case m.Drain():
                    os._exit(0)
        if control.poll(0):
            peer, data = control.recv_multipart()
            attach = codec.client_to_worker(data)
            known = isinstance(attach, m.Attach) and admitted.get(attach.session)
            if known and known.token == attach.token:
                control.send_multipart([peer, codec.encode(m.Attached(attach.request_id))])


def status(config: WorkerConfig, admitted: dict[bytes, m.AdmitSession]) -> m.WorkerStatus:
    sessions = tuple(m.SessionStatus(s.session.hex()[:8], s.client, 1.0, 0, 0, 0) for s in admitted.values())
    return m.WorkerStatus(config.tenant, os.getpid(), "ready", "fake", config.memory_limit, 0, 0, 0, 0, sessions)


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipe-fd", type=int, required=True)
    pipe, config = open_worker_pipe(parser.parse_args().pipe_fd)
    behaviour = os.environ.get("GENIE_TEST_WORKER", "")
    if behaviour == "crashes":
        os._exit(3)
    if behaviour == "fails":
        pipe.send(m.WorkerFailed("OptionError", "no device 'cuda:7' here"))
        return
    while behaviour.startswith("waits:") and not Path(behaviour.removeprefix("waits:")).exists():
        time.sleep(0.01)
    serve(pipe, config, behaviour)


if __name__ == "__main__":
    main()
