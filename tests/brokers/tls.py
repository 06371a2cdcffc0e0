"""RabbitMQ's own TLS, on a node that runs already."""

from __future__ import annotations

import uuid

from tests.brokers.certificates import Certificates
from tests.brokers.container import TLS_PORT, ContainerNode
from tests.brokers.node import BrokerNode


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def listen(node: BrokerNode, signed: Certificates) -> int:
    """Make ``node`` take TLS links from who has a certificate of the same authority, until it is restarted. Returns the port."""
    folder = f"/tmp/fabric-{uuid.uuid4().hex}"
    files = {"authority": signed.authority, "server": signed.server, "key": signed.server_key}
    steps = [f"ok = file:make_dir({_text(folder)})"]
    steps += [f"ok = file:write_file({_text(f'{folder}/{name}')}, {_text(file.read_text())})" for name, file in files.items()]
    options = ", ".join(
        (
            f"{{cacertfile, {_text(f'{folder}/authority')}}}",
            f"{{certfile, {_text(f'{folder}/server')}}}",
            f"{{keyfile, {_text(f'{folder}/key')}}}",
            "{verify, verify_peer}",
            "{fail_if_no_peer_cert, true}",
        )
    )
    place = str(TLS_PORT) if isinstance(node, ContainerNode) else f'{{"127.0.0.1", {node.tls_port}}}'
    steps.append(f"application:set_env(rabbit, ssl_options, [{options}])")
    steps.append(f"rabbit_networking:start_ssl_listener({place}, [{options}], 1)")
    node.ctl("eval", ", ".join(steps) + ".")
    return node.tls_port


def take_names_from_certificates(node: BrokerNode) -> None:
    """Let ``auth_mechanism=external`` work: the common name of the client's certificate is the user. Until it is restarted."""
    node.ctl(
        "eval",
        "{ok, _} = application:ensure_all_started(rabbitmq_auth_mechanism_ssl),"
        ' rabbit_registry:register(auth_mechanism, <<"EXTERNAL">>, rabbit_auth_mechanism_ssl),'
        " application:set_env(rabbit, ssl_cert_login_from, common_name),"
        " {ok, Known} = application:get_env(rabbit, auth_mechanisms),"
        " application:set_env(rabbit, auth_mechanisms, lists:usort(['EXTERNAL' | Known])).",
    )
