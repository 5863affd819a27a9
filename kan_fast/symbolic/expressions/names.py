"""Names that exported functions can have in C and in Python."""

from __future__ import annotations

import keyword
import re
import symtable

_KEYWORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int long register
restrict return short signed sizeof static struct switch typedef union unsigned void volatile while alignas alignof
asm bool constexpr false nullptr static_assert thread_local true typeof typeof_unqual fortran linux unix i386 main
"""
_MATH = """
acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma fmax
fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint
nextafter nexttoward pow remainder remquo rint round scalbln scalbn sin sinh sqrt tan tanh tgamma trunc drem exp10
finite gamma isinf isnan j0 j1 jn pow10 scalb significand sincos y0 y1 yn cabs cacos cacosh carg casin casinh catan
catanh ccos ccosh cexp cimag clog conj cpow cproj creal csin csinh csqrt ctan ctanh
"""
_OTHER = """
fpclassify isfinite isnormal signbit isgreater isgreaterequal isless islessequal islessgreater isunordered signgam
isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct isspace isupper isxdigit tolower toupper
isascii toascii errno assert localeconv setlocale longjmp setjmp raise signal clearerr fclose feof ferror fflush fgetc
fgetpos fgets fopen fprintf fputc fputs fputs_unlocked fread freopen fscanf fseek fsetpos ftell fwrite getc getchar
gets perror printf putc putchar puts remove rename rewind scanf setbuf setvbuf snprintf sprintf sscanf stderr stdin
stdout tmpfile tmpnam ungetc vfprintf vfscanf vprintf vscanf vsnprintf vsprintf vsscanf abort abs atexit atof atoi
atol atoll bsearch calloc div exit free getenv labs ldiv llabs lldiv malloc mblen mbstowcs mbtowc qsort rand realloc
srand strtod strtof strtol strtold strtoll strtoul strtoull system wcstombs wctomb alloca imaxabs imaxdiv strtoimax
strtoumax bcmp bcopy bzero ffs index rindex memchr memcmp memcpy memmove mempcpy memset stpcpy stpncpy strcasecmp
strcat strchr strcmp strcoll strcpy strcspn strdup strerror strlen strncasecmp strncat strncmp strncpy strndup strpbrk
strrchr strspn strstr strtok strxfrm asctime clock ctime difftime gmtime localtime mktime strftime time execl execlp
execle execv execvp execve fork strfmon btowc fgetwc fgetws fputwc fputws fwide fwprintf
fwscanf getwc getwchar iswalnum iswalpha iswblank iswcntrl iswctype iswdigit iswgraph iswlower iswprint iswpunct
iswspace iswupper iswxdigit mbrlen mbrtowc mbsinit mbsrtowcs putwc putwchar swprintf swscanf towctrans towlower
towupper ungetwc vfwprintf vfwscanf vswprintf vswscanf vwprintf vwscanf wcrtomb wcscat wcschr wcscmp wcscoll wcscpy
wcscspn wcsftime wcslen wcsncat wcsncmp wcsncpy wcspbrk wcsrchr wcsrtombs wcsspn wcsstr wcstod wcstof wcstok wcstol
wcstold wcstoll wcstoul wcstoull wcsxfrm wctob wctrans wctype wmemchr wmemcmp wmemcpy wmemmove wmemset wprintf wscanf
"""
_RESERVED_IN_C = {
    *_KEYWORDS.split(),
    *_OTHER.split(),
    *(f"{name}{kind}" for name in _MATH.split() for kind in ("", "f", "l")),
}
_MACROS = re.compile(r"NAN|INFINITY|HUGE|HUGE_VAL[FL]?|MAXFLOAT|\w?LOSS|DOMAIN|SING|(OVER|UNDER)FLOW|(FP|M|MATH)_\w*")


def check_c_name(name: str) -> None:
    """Refuse a name that a function in C with math.h can't have, or that a library of C has already.

    Raises:
        ValueError: the message says why.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"name must be a C identifier that starts with a letter, got {name!r}")
    if name in _RESERVED_IN_C or _MACROS.fullmatch(name):
        raise ValueError(
            f"name must be one that neither C nor its library uses, got {name!r}; try 'kan_{name.lower()}'"
        )


def check_python_name(name: str, source: str) -> None:
    """Refuse a name that a function in Python can't have, or that the code beside it, `source`, uses itself.

    Raises:
        ValueError: the message says why.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name == "__debug__":
        raise ValueError(f"name must be a Python identifier and no keyword, got {name!r}")
    if name in _globals(symtable.symtable(source, "source", "exec")):
        raise ValueError(f"name must be one that the module has no use for, got {name!r}; try 'kan_{name}'")


def _globals(table: symtable.SymbolTable) -> set[str]:
    """Names that code looks up in its module or among the built-in ones, and those that the module defines."""
    here = {symbol.get_name() for symbol in table.get_symbols() if table.get_type() == "module" or symbol.is_global()}
    return here.union(*map(_globals, table.get_children()))
