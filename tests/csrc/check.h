// A test harness of one header: named cases, checks that say what they saw, a non-zero exit.
//
//   TEST(rows_are_kept_in_order) { CHECK_EQ(count, 3); }
//   PTMO_TEST_MAIN()
//
// A failed check ends its case; the other cases still run. With arguments, only the cases whose
// names contain one of them run, and it is an error if none does.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace ptmo::test {

struct Failure {
  std::string message;
};
struct Skipped {
  std::string reason;
};

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

// What is being tested just now (a level, a shape), for the message of a failed check.
inline std::string& context() {
  static std::string text;
  return text;
}

template <typename... Parts> void set_context(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  context() = out.str();
}

template <typename T> std::string show(const T& value) {
  std::ostringstream out;
  out.precision(9);
  if constexpr (std::is_enum_v<T>) {
    out << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (std::is_arithmetic_v<T>) {
    out << +value;
  } else {
    out << value;
  }
  return out.str();
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::ostringstream out;
  out << file << ":" << line << ": " << what;
  if (!context().empty())
    out << " [" << context() << "]";
  throw Failure{out.str()};
}

// Ends the case, which was not run: `why` is printed.
[[noreturn]] inline void skip(const std::string& why) {
  throw Skipped{why};
}

template <typename A, typename B>
void check_eq(const A& a, const B& b, const char* text, const char* file, int line) {
  if (!(a == b))
    fail(file, line, std::string(text) + ": " + show(a) + " is not " + show(b));
}

// |a - b| <= tolerance; a NaN on either side fails.
inline void check_near(double a, double b, double tolerance, const char* text, const char* file,
                       int line) {
  if (!(std::fabs(a - b) <= tolerance))
    fail(file, line,
         std::string(text) + ": " + show(a) + " is not within " + show(tolerance) + " of " +
             show(b));
}

inline bool wanted(const char* name, int argc, char** argv) {
  bool any = argc < 2;
  for (int i = 1; i < argc; ++i)
    any = any || std::strstr(name, argv[i]) != nullptr;
  return any;
}

inline int run_all(int argc, char** argv) {
  int ran = 0, failed = 0, skipped = 0;
  for (const Case& c : cases()) {
    if (!wanted(c.name, argc, argv))
      continue;
    ++ran;
    context().clear();
    std::string problem;
    try {
      c.body();
    } catch (const Skipped& skipped_case) {
      ++skipped;
      std::printf("skip %s: %s\n", c.name, skipped_case.reason.c_str());
      continue;
    } catch (const Failure& failure) {
      problem = failure.message;
    } catch (const std::exception& error) {
      problem = std::string("unexpected exception: ") + error.what() + " [" + context() + "]";
    }
    failed += !problem.empty();
    std::printf("%s %s%s%s\n", problem.empty() ? "ok  " : "FAIL", c.name,
                problem.empty() ? "" : ": ", problem.c_str());
    std::fflush(stdout);
  }
  std::printf("%d cases, %d failed", ran, failed);
  if (skipped > 0)
    std::printf(", %d skipped", skipped);
  std::printf("\n");
  return ran > 0 && failed == 0 ? 0 : 1;
}

} // namespace ptmo::test

#define TEST(name)                                                                                 \
  static void name();                                                                              \
  static const ::ptmo::test::Register register_##name(#name, name);                                \
  static void name()

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition))                                                                              \
      ::ptmo::test::fail(__FILE__, __LINE__, "not true: " #condition);                             \
  } while (false)

#define CHECK_EQ(a, b) ::ptmo::test::check_eq((a), (b), #a " == " #b, __FILE__, __LINE__)

#define CHECK_NEAR(a, b, tolerance)                                                                \
  ::ptmo::test::check_near((a), (b), (tolerance), #a " ~ " #b, __FILE__, __LINE__)

// The expression throws `Exception` (or one derived from it) and its message contains `part`.
#define CHECK_THROWS(expression, Exception, part)                                                  \
  do {                                                                                             \
    bool thrown = false;                                                                           \
    try {                                                                                          \
      (void)(expression);                                                                          \
    } catch (const Exception& error) {                                                             \
      thrown = true;                                                                               \
      if (std::string(error.what()).find(part) == std::string::npos)                               \
        ::ptmo::test::fail(__FILE__, __LINE__,                                                     \
                           std::string("message lacks \"") + (part) + "\": " + error.what());      \
    }                                                                                              \
    if (!thrown)                                                                                   \
      ::ptmo::test::fail(__FILE__, __LINE__, #expression " did not throw " #Exception);            \
  } while (false)

#define PTMO_TEST_MAIN()                                                                           \
  int main(int argc, char** argv) {                                                                \
    return ::ptmo::test::run_all(argc, argv);                                                      \
  }
