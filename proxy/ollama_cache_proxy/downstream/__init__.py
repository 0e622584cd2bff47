"""HTTP/1.1 towards clients.

The modules:

    listener           the listening socket, its connections, the drain
    client_connection  one connection: what the gate decides is done here
    gate               what happens to bytes before they are parsed, pure
    request_reader     the parser, which reads some heads once more in their plain form
    plain_head         that form, pure
    http_client        one response, written as bytes
    refusals           what the proxy refuses to read
"""
