#!/bin/bash
# Whether the process behind this port is ready (/readyz): slim images have no curl, but bash speaks TCP.
#
#   healthcheck.sh PORT
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
IFS= read -r -t 4 line <&3
[[ $line == *" 200 "* ]]
