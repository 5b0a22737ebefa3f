"""The dictionary: what zstandard is told of records before it sees one, so that small ones shrink, too.

A session's record is half a kilobyte of which nearly all is said in every other one: the names of its fields, the words
of the protocol, what the common clients and SDKs say of themselves. Measured on 690 bytes: without it 5.5 us
and 470 bytes, with it 1.7 us and 140, with one made of just these records 1.6 us and 95.

A frame can only be unpacked with the dictionary that it was packed with, so: **never change one that was released**, by
no byte; add another and raise `NEWEST`. A test holds the digest of each. Content only, without tables of its own: what
it does can be read here. The most common stands last, where it is reached with the smallest offsets.
"""

from __future__ import annotations

from collections.abc import Mapping

NEWEST = 1

_MESSAGES = (
    b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error","data":{"reason":"not found"}}}'
    b'{"jsonrpc":"2.0","id":2,"method":"sampling/createMessage","params":{"messages":[{"role":"user","content":{"t'
    b'ype":"text",'
    b'"text":""}}],"maxTokens":1000,"systemPrompt":""}}{"method":"elicitation/create","params":{"mode":"form",'
    b'"requestedSchema":{"type":"object","properties":{"name":{"type":"string","description":"","title":""}},"requ'
    b'ired":["name"]}}}'
    b'{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"search","title":"Search","description":"Search for","inp'
    b'utSchema":'
    b'{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"query":{"type":"string"}'
    b',"limit":'
    b'{"type":"integer","default":10}},"required":["query"],"additionalProperties":false},"annotations":{"readOnly'
    b'Hint":true,'
    b'"destructiveHint":false,"idempotentHint":true,"openWorldHint":true}}],"nextCursor":""}}{"method":"resources/'
    b'updated",'
    b'"params":{"uri":"file:///"}}{"resources":[{"uri":"https://","mimeType":"application/json","text/plain","imag'
    b'e/png"}]}'
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"timeout"}}'
    b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}{"jsonrpc":"2.0","method":"notifications/messag'
    b'e","params":'
    b'{"level":"info","logger":"server","data":"warning error debug"}}'
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1.0,"total":100.0,'
    b'"message":"'
    b'{"jsonrpc":"2.0","id":4,"result":{"content":[{"type":"text","text":"}],"structuredContent":{"result":"},"isE'
    b'rror":false,'
    b'"_meta":{}}}'
)

_NAMES = (
    b"upstream_rejected upstream_down auth_gone crash_loop corrupt embedded stdio sse websocket"
    b" notifications/initialized"
    b" logging/setLevel resources/subscribe prompts/get completion/complete tools/list resources/read tools/call"
    b" Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (X11; Linux x86_64) node python-httpx/0.28.1"
    b" https://localhost: http://127.0.0.1: pending_requests request_id tool_name started duration arguments"
)

_HANDSHAKE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","2024-11-05","2025-06-18",'
    b'"capabilities":{"experimental":{},"tasks":{"list":{},"cancel":{}},"elicitation":{"form":{},"url":{}},'
    b'"sampling":{},"roots":{"listChanged":true}},"clientInfo":'
    b'{"name":"mcp-inspector cursor-vscode Visual Studio Code claude-ai mcp",'
    b'"title":"","version":"0.1.0"}}}\xc5\x01\x00{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{"completions":{},"logging":{},"experimental":{},"prompts":{"listChanged":false},'
    b'"resources":{"subscribe":true,"listChanged":true},"tools":{"listChanged":true}},'
    b'"serverInfo":{"name":"server","title":"","version":"1.0.0"},"instructions":"Use this server to "}}'
)

# The shape of a session's record, as msgpack writes it; the values are those of an ordinary session.
_SESSION = (
    b"\xde\x00\x15\xa9principal\x93\xa0\xa0\xa0\xa7created\xcbA\xda\xaalast_active\xcbA\xda\xa3ttl\xcb@\xf5\x18\x00\x00\x00"
    b"\x00\x00\xa6opened\xc3\xa7failure\x93\xa0\xa0\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xaatransports\x92\xa8embedded\xa5"
    b"stdio\xafstreamable-http\xafstreamable-http\xa9handshake\xc0\xa5setup\x94\xc4\xc5"
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":'
    b'{"listChanged":true},"sampling":{}},"clientInfo":{"name":"claude-code","version":"1.0.0"}}}\xc4\x93'
    b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":'
    b'{"name":"","version":"1.0"}}}\xd9 \xc3\xa5setup\x80\xa7streams\x90\xabnext_stream\x01\xa3log\x93\xce\x01'
    b"\x00\xa5calls\x90"
    b"\xa4asks\x90\xb1standalone_cursor\xa0\xa5shown\x00\xa9listening\xc2\xa7metrics\x93\x00\x00\x00\xa6values\x80\xa7context\x80"
    b"\xa8metadata\x82\xaauser_agent\xa6node\xa6origin\xa0"
)

DICTIONARIES: Mapping[int, bytes] = {1: b"".join((_MESSAGES, _NAMES, _HANDSHAKE, _SESSION))}
