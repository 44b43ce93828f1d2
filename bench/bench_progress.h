/* SPDX-License-Identifier: MIT */
/* Progress on stderr: a bar that is redrawn on a terminal, plain lines elsewhere. */
#ifndef DOCONV_BENCH_PROGRESS_H
#define DOCONV_BENCH_PROGRESS_H

#include <string>

namespace bench
{

class progress
{
  public:
    progress(const char *title, int steps);
    ~progress();
    progress(const progress &) = delete;
    progress &operator=(const progress &) = delete;

    /* The step that begins now. */
    void begin(const std::string &what);
    /* How far it is, 0 to 1: shown on a terminal only. */
    void within(double fraction);
    /* It is done. line: its outcome, printed above the bar; "" prints nothing. */
    void end(const std::string &line);

  private:
    void draw();
    void clear();

    const char *title_;
    int steps_, done_ = 0;
    double fraction_ = 0;
    bool terminal_, drawn_ = false;
    std::string what_;
};

} // namespace bench

#endif
