// The limit: one thread, epoll, and send(2) of ready frames. It speaks just as much HTTP
// as measurements need. A GET becomes a reader of what its path names; what is posted to
// /s/N becomes an event of stream N, and what is posted anywhere else is sent as it is.
// All that is pending for a reader is sent at once. Who falls too far behind is cut. The
// second argument, if any, is how often each reader gets a heartbeat, in milliseconds; they
// are spread evenly.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STREAMS = 4096, CONNS = 20000, MOST = 8 << 20, REQUEST = 1 << 20 };

// The newest frames of a stream, one behind the other; start is the first one's position.
static struct stream {
  char *log;
  long start, len, cap;
  int *readers, count, room, dirty;
} streams[STREAMS];

static struct conn {
  int stream; // that it reads; -1: it writes
  long at;    // position
  int waits;  // until it can be written to
  char *in;   // a request that is not whole yet
  int got, answers;
} conns[CONNS];

static int ep, dirty[STREAMS], dirties;

static void drop(int fd) {
  struct conn *c = &conns[fd];
  if (c->stream >= 0) {
    struct stream *s = &streams[c->stream];
    for (int i = 0; i < s->count; i++)
      if (s->readers[i] == fd) s->readers[i--] = s->readers[--s->count];
  }
  free(c->in);
  c->in = 0;
  c->answers = 0;
  c->stream = -1;
  close(fd);
}

static void waits(int fd, int on) {
  struct epoll_event ev = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.fd = fd};
  if (conns[fd].waits != on) epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev);
  conns[fd].waits = on;
}

// Sends what is pending; 0: the reader is gone.
static int pending(int fd) {
  struct conn *c = &conns[fd];
  struct stream *s = &streams[c->stream];
  long n = s->start + s->len - c->at;
  if (c->at < s->start) return drop(fd), 0;
  if (n == 0) return 1;
  long m = send(fd, s->log + (c->at - s->start), n, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (m < 0 && errno != EAGAIN) return drop(fd), 0;
  if (m > 0) c->at += m;
  waits(fd, m < n);
  return 1;
}

static void append(int stream, const char *b, long n) {
  struct stream *s = &streams[stream];
  if (s->len + n > MOST) { // the older half goes
    memmove(s->log, s->log + s->len / 2, s->len - s->len / 2);
    s->start += s->len / 2;
    s->len -= s->len / 2;
  }
  while (s->len + n > s->cap) s->log = realloc(s->log, s->cap = s->cap ? 2 * s->cap : 4096);
  memcpy(s->log + s->len, b, n);
  s->len += n;
  if (!s->dirty) s->dirty = 1, dirties++, dirty[dirties - 1] = stream;
}

static void say(int fd, const char *s) {
  if (send(fd, s, strlen(s), MSG_NOSIGNAL) < 0) perror("send");
}

// Takes the whole requests of a connection.
static void requests(int fd) {
  struct conn *c = &conns[fd];
  int done = 0;
  for (;;) {
    char *from = c->in + done, *end = memmem(from, c->got - done, "\r\n\r\n", 4);
    if (!end) break;
    *end = 0;
    char *path = strchr(from, ' '), *length = strcasestr(from, "content-length:");
    int n = length ? atoi(length + 15) : 0, event = path && !strncmp(path, " /s/", 4), stream = event ? atoi(path + 4) : 0;
    if (end + 4 + n > c->in + c->got) {
      *end = '\r';
      break;
    }
    if (stream < 0 || stream >= STREAMS) stream = 0;
    if (*from == 'G') {
      struct stream *s = &streams[stream];
      if (s->count == s->room) s->readers = realloc(s->readers, sizeof(int) * (s->room = s->room ? 2 * s->room : 4));
      s->readers[s->count++] = fd;
      c->stream = stream;
      c->at = s->start + s->len;
      free(c->in);
      c->in = 0;
      say(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
      return;
    }
    if (event) append(stream, "data: ", 6);
    append(stream, end + 4, n);
    if (event) append(stream, "\n\n", 2);
    c->answers++;
    done = end + 4 + n - c->in;
  }
  memmove(c->in, c->in + done, c->got -= done);
}

static void readable(int fd) {
  struct conn *c = &conns[fd];
  if (c->stream >= 0) {
    char b[256];
    if (recv(fd, b, sizeof b, MSG_DONTWAIT) == 0) drop(fd);
    return;
  }
  if (!c->in) c->in = malloc(REQUEST + 1), c->got = 0;
  int m = recv(fd, c->in + c->got, REQUEST - c->got, MSG_DONTWAIT);
  if (m <= 0) {
    if (m == 0 || errno != EAGAIN) drop(fd);
    return;
  }
  c->in[c->got += m] = 0;
  requests(fd);
}

enum { SLOTS = 500 }; // of a heartbeat's period

static long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// Sends the heartbeats that are due.
static void beat(long every) {
  static long began, slot;
  if (!began) began = now();
  for (long due = (now() - began) * SLOTS / every; slot < due; slot++)
    for (int fd = slot % SLOTS; fd < CONNS; fd += SLOTS)
      if (conns[fd].stream >= 0 && !conns[fd].waits) say(fd, ":\n\n");
}

int main(int argc, char **argv) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  ep = epoll_create1(0);
  setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(ls, (struct sockaddr *)&at, sizeof at) || listen(ls, 4096)) {
    perror("listen");
    return 1;
  }
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = ls}, got[512];
  epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
  long every = argc > 2 ? atol(argv[2]) : 0;
  for (int i = 0; i < CONNS; i++) conns[i].stream = -1;
  puts("serving");
  fflush(stdout);
  for (;;) {
    int n = epoll_wait(ep, got, 512, every ? every / SLOTS + 1 : -1);
    if (every) beat(every);
    for (int i = 0; i < n; i++) {
      int fd = got[i].data.fd;
      if (fd != ls) {
        if (got[i].events & EPOLLOUT && !pending(fd)) continue;
        if (got[i].events & ~EPOLLOUT) readable(fd);
        continue;
      }
      while ((fd = accept(ls, 0, 0)) >= 0) {
        if (fd >= CONNS) {
          close(fd);
          continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conns[fd] = (struct conn){.stream = -1};
        ev.data.fd = fd;
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
      }
    }
    for (int i = 0; i < dirties; i++) {
      struct stream *s = &streams[dirty[i]];
      s->dirty = 0;
      for (int k = 0; k < s->count; k++)
        if (!conns[s->readers[k]].waits && !pending(s->readers[k])) k--;
    }
    dirties = 0;
    for (int i = 0; i < n; i++)
      for (int fd = got[i].data.fd; fd != ls && conns[fd].answers > 0; conns[fd].answers--) say(fd, "HTTP/1.1 204 No Content\r\n\r\n");
  }
}
