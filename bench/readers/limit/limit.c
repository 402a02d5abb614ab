// The limit: one thread, epoll, and send(2) of a ready frame. It speaks just as much HTTP
// as the measurement needs: a GET becomes a reader, a POST's body is the frame for all.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 70000
static int readers[MOST], count;
static char buf[1 << 20];

static void say(int fd, const char *s) {
  if (send(fd, s, strlen(s), MSG_NOSIGNAL) < 0) perror("send");
}

static void request(int fd) {
  int n = 0, head = 0, want = 0;
  for (;;) { // small requests from this machine come whole, or nearly
    int m = recv(fd, buf + n, sizeof buf - n - 1, 0);
    if (m <= 0) {
      close(fd);
      return;
    }
    buf[n += m] = 0;
    char *end = strstr(buf, "\r\n\r\n");
    if (!end) continue;
    head = end + 4 - buf;
    char *length = strcasestr(buf, "content-length:");
    want = length && length < end ? atoi(length + 15) : 0;
    if (n - head >= want) break;
  }
  if (buf[0] == 'G') {
    say(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
    readers[count++] = fd;
    return;
  }
  for (int i = 0; i < count; i++)
    if (send(readers[i], buf + head, want, MSG_NOSIGNAL | MSG_DONTWAIT) != want) readers[i--] = readers[--count];
  say(fd, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
  close(fd);
}

int main(int argc, char **argv) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int ls = socket(AF_INET, SOCK_STREAM, 0), one = 1, ep = epoll_create1(0);
  setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(ls, (struct sockaddr *)&at, sizeof at) || listen(ls, 4096)) {
    perror("listen");
    return 1;
  }
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = ls}, got[64];
  epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
  puts("serving");
  fflush(stdout);
  for (;;) {
    int n = epoll_wait(ep, got, 64, -1);
    for (int i = 0; i < n; i++) {
      int fd = accept(ls, 0, 0);
      if (fd < 0) continue;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      request(fd);
    }
  }
}
