<?php
// bench/apps.py's four answers for php-fpm; the path is DOCUMENT_URI's, as nginx hands it over.
header('Content-Type: text/plain');
switch ($_SERVER['DOCUMENT_URI']) {
    case '/': $body = "hello world\n"; break;
    case '/10k': $body = str_repeat('0123456789abcdef', 640); break;
    case '/1m': $body = str_repeat('0123456789abcdef', 65536); break;
    case '/upload':
        // PHP has read the whole body before the script begins
        $body = file_get_contents('php://input');
        $body = ($body === str_repeat('0123456789abcdef', 65536) ? strlen($body) : 0) . "\n";
        break;
    default: http_response_code(404); $body = "no such page\n";
}
header('Content-Length: ' . strlen($body));
echo $body;
